//! What the suites share: cases, engines, oracles, generators.
