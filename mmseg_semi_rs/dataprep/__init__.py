# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Work before training, offline: conversion, splits, somebody's own folder. Needs no torch."""
