//! What every driver must do, as tests to be called with a real one.
