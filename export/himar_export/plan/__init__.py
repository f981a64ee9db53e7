"""Plans how many devices a rate of requests needs, by simulating the service that would answer them."""
