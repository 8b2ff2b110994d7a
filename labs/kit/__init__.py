"""The lab kit: what hvlab is made of. labs/README.md tells how its parts fit."""
