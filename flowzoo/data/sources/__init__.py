"""The sources that come with flowzoo. Every module here is imported by itself."""
