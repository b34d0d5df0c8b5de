"""Public services that can answer what the snapshot can't; none is called unless it is named.

``GCA_ONLINE_SOURCES=reactome,pubmed`` switches two of them on. See docs/guides/knowledge.md.
"""
