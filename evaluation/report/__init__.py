"""Tables, figures and the report page of an evaluation."""
