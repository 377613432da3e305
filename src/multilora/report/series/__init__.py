"""The numbers that plots show, computed once: the page and the figures for papers only draw them."""
