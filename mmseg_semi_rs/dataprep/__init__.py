# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Offline preparation of data: conversion, splits, and a user's own folder. Needs no torch."""
