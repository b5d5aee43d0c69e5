"""The course: ten lessons, ``NN_topic.py`` and its print ``NN_topic.ipynb``, which ``python -m notebooks`` makes."""
