"""The conformance kit: what proves a port right, or says which of the known mistakes it makes.

`SPEC.md` is normative, `CHECK.md` says what a subject offers. `vectors/` are the golden vectors of levels 0 and 1:
`generate` makes them, `golden` reads them, `deterministic` and `responses` judge a subject by them. Level 2 is
`statistics`, the whole verdict `verdict`.
"""
