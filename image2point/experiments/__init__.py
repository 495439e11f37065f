"""One file per question asked; `transfer` is the main one."""
