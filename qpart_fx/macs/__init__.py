"""The multiply-adds of one call: the table from operations to handlers, and the handlers."""
