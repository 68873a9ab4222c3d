"""The SDK's version, as it stands in instance nodes."""

VERSION = "0.1.0"
SDK = f"mqadmin-python/{VERSION}"
