"""What starts work when the clock says so."""
