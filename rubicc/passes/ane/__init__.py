"""Rewrites into the forms that the Apple Neural Engine executes."""
