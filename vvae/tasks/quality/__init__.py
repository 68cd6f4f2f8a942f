"""How well does the model describe videos?"""
