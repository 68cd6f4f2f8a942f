"""Which videos are alike?"""
