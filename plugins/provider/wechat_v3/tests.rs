//! What must be refused, what each word means, and that nothing malformed does harm.
