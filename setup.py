"""Which folders are packages: those that are found, and assets/, which an installed package has as golden/assets."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["golden*", "train*", "eval*"]), "golden.assets"],
    package_dir={"golden.assets": "assets"},
)
