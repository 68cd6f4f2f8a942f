"""Where does a shot end, and what moves?"""
