//! A scripted model server that speaks the real wires.
