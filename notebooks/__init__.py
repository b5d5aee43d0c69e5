"""The course: ten lessons, ``NN_topic.py`` and its executed print ``NN_topic.ipynb``; ``python -m notebooks`` prints them."""
