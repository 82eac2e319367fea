def explain_difference(a,b): return ()
