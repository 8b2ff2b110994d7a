# Guests: see guests/README.md.
.PHONY: guests
guests:
