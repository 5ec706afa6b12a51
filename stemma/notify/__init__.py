"""Telling people and programs outside what happened, and hearing from programs that sign what they say.

Who has news puts a `Message` into the outbox with its own change; channels, deliveries and sources are this package's.
"""
