"""What the engines share about registries of images: names, platforms, the user's credentials, and the client.

Nothing here is loaded before an image is looked up or pulled; aiohttp not before something is fetched.
"""
