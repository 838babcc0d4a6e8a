"""Mails to everybody."""
