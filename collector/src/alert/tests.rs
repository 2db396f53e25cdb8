//! Against a real database and a real receiver.
