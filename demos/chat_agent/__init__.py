"""A barista who learns by evolution what to say, and remembers what every guest likes to drink. No language model."""
