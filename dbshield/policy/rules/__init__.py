"""One reason to stop, one class. The families are those of the ids: DS1xx destroys objects, DS2xx destroys rows, DS3xx escapes
control, DS4xx tampers with a guard, DS5xx hurts availability, DS6xx hides what it does,
DS7xx cannot be audited, DS9xx cannot be read."""
