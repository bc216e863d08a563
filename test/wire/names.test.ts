/** Names that people choose must be safe in paths, in a shell and in a table. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { z } from 'zod'
import {
  DerivationName,
  Feature,
  InputName,
  NodeName,
  OutputName,
  PeerId,
  RequestId,
  System,
  text,
  ToolName,
  VariableName,
} from '../../src/wire/names.ts'
import { peerOf } from '../scheduler/samples.ts'

function check(schema: z.ZodType, good: readonly string[], bad: readonly string[]): void {
  for (const name of good) assert(schema.safeParse(name).success, JSON.stringify(name))
  for (const name of ['', ' ', '\0', 'a b', 'a\n', 'ä', 'a/b', '..', '.', '$(x)', ...bad])
    assert(!schema.safeParse(name).success, JSON.stringify(name))
}

test('names: derivations', () =>
  check(
    DerivationName,
    ['a', 'gcc-12.3', 'libstdc++', '_x', '+x', 'a'.repeat(128)],
    ['-a', '.a', 'a'.repeat(129)],
  ))
test('names: variables and outputs', () =>
  check(VariableName, ['out', '_', 'A1', 'a'.repeat(64)], ['1a', 'a-b', 'a.b', 'a'.repeat(65)]))
test('names: inputs are variables, or files with a dot', () =>
  check(InputName, ['src', 'main.c', 'a.', 'x-y.tar.gz', '1.c'], ['x-y', '.c', '-a.c', '1a']))
test('names: systems', () =>
  check(System, ['x86_64-linux', 'any', 'i686-linux'], ['X86', 'a-b-c', '-linux', 'a'.repeat(33)]))
test('names: features', () =>
  check(Feature, ['kvm', 'big-parallel', 'c++20'], ['KVM', '-a', 'a'.repeat(65)]))
test('names: tools are bare program names', () =>
  check(ToolName, ['gcc', 'g++', 'python3.12'], ['-rf', '/bin/sh', 'a'.repeat(65)]))
test('names: nodes', () =>
  check(NodeName, ['build-1', 'a.example.org', '1'], ['-a', '.a', '_a', 'a'.repeat(64)]))
test('names: requests', () =>
  check(
    RequestId,
    ['r-abcdef', 'r-23456789abcd'],
    ['r-abc', 'j-abcdef', 'r-ABCDEF', `r-${'a'.repeat(33)}`],
  ))
test('names: peers', () =>
  check(
    PeerId,
    [peerOf('x')],
    [peerOf('x').slice(1), `${peerOf('x')}a`, peerOf('x').replace('12D3', 'Qm12')],
  ))

test('names: texts have no NUL and an end', () => {
  assert(text(3).safeParse('äöü').success)
  assert(!text(3).safeParse('abcd').success)
  assert(!text(3).safeParse('a\0').success)
})

test('names: two dots are an input name, which must never be a way up', () => {
  assert(!InputName.safeParse('..').success)
  assert(InputName.safeParse('a..').success)
})

test('names: none is __proto__, which as a key would vanish; texts have whole characters', () => {
  for (const name of [DerivationName, VariableName, OutputName, InputName, ToolName])
    assert.equal(name.safeParse('__proto__').success, false)
  assert.equal(text(10).safeParse('a\ud800').success, false)
})
