"""The page's figures as pictures for papers, drawn by matplotlib; one figure a file."""
