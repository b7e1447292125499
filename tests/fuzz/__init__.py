"""Coverage-guided fuzzing of what reads strangers' bytes: pictures (`image`) and requests (`request`)."""
