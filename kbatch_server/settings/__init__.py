"""Reads settings and checks them."""
