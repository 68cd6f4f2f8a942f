"""Which videos show what a few marked ones show?"""
