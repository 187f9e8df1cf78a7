"""Union-find over names, for peers that give pairs and leave the clusters to their users."""


class Union:
    """Clusters that grow by pairs; a cluster is known by its smallest name."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        path = []
        while (above := self.parent.get(name, name)) != name:
            path.append(name)
            name = above
        for step in path:
            self.parent[step] = name
        return name

    def join(self, a: str, b: str) -> None:
        first, second = sorted((self.root(a), self.root(b)))
        self.parent[second] = first
