"""When to score and when to contrast: callbacks for `Trainer`. None is here yet."""
