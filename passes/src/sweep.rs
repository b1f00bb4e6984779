//! A forward walk that builds a new graph while local rules look at it: linear, and chains simplify in one walk.
