"""The limits of users, of groups and of all, and the rules that follow from them."""
