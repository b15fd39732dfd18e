"""Swift sources: those ending in ``.swift`` are copied as they are, those in ``.tmpl`` are filled in."""
