"""Judge a round: score candidate and champion, measure drift, report, and let gates decide."""
