def audit(plan): return []
