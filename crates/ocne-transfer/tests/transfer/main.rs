//! Both ends of a transfer, over wires that are whole, and over wires that split, cut and corrupt.

mod blocks;
mod whole;
mod wire;
