"""What the tests on real servers share. No test lives here."""
