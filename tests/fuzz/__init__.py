"""Coverage-guided fuzzing of image decoding (`image`) and request parsing (`request`)."""
