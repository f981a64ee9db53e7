"""Finds the wrong layer of a component: where its values leave the reference, and which layers have to be float32."""
