//! Finds the workers of a host and reads how busy they say they are.
