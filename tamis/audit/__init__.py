"""Looking at a run: as a table, by SQL, one document at a time, against another run, as a page. Nothing is changed."""
