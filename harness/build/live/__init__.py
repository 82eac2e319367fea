"""The live ISO of the reference system: stages after those of the reference image, none of whose bytes they change."""
