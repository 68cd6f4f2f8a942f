"""Which class does a video belong to?"""
