/** Graphs that hold nothing together are refused before they are accepted. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Derivation, Graph } from '../../src/wire/derivation.ts'
import { checkGraph } from '../../src/scheduler/check-request.ts'
import { derivation } from './samples.ts'

const graph = (derivations: readonly Derivation[], wanted: readonly string[] = ['a']): Graph => ({
  v: 1,
  name: 'g',
  derivations: [...derivations],
  wanted: [...wanted],
})

function refuses(
  code: string,
  text: RegExp,
  derivations: readonly Derivation[],
  wanted?: readonly string[],
): void {
  assert.throws(
    () => checkGraph(graph(derivations, wanted)),
    (error: unknown) => {
      assert(error instanceof Error && 'code' in error)
      assert.equal(error.code, code)
      assert.match(error.message, text)
      return true
    },
  )
}

test('check-request: a graph without faults is accepted', () => {
  checkGraph(
    graph([
      derivation('a', { after: ['b', 'c.dev'] }),
      derivation('b', { after: ['c'] }),
      derivation('c', { outputs: ['out', 'dev'] }),
    ]),
  )
})

test('check-request: two derivations of one name', () =>
  refuses('MESH0203', /two derivations/, [derivation('a'), derivation('a')]))
test('check-request: what is wanted must be there', () =>
  refuses('MESH0206', /"x"/, [derivation('a')], ['x']))
test('check-request: an input of nothing', () =>
  refuses('MESH0206', /takes x.out/, [derivation('a', { after: ['x'] })]))
test('check-request: an output that is not declared', () =>
  refuses('MESH0206', /takes b.dev/, [derivation('a', { after: ['b.dev'] }), derivation('b')]))
test('check-request: an output that every object has', () =>
  refuses('MESH0206', /takes b.toString/, [
    derivation('a', { after: ['b.toString'] }),
    derivation('b'),
  ]))

test('check-request: an input of a variant', () => {
  const inputs = { x: { kind: 'output' as const, derivation: 'nothing', output: 'out' } }
  refuses('MESH0206', /takes nothing.out/, [
    { ...derivation('a'), variants: [{ host: 'any', args: [], env: {}, inputs }] },
  ])
})

test('check-request: circles', () => {
  refuses('MESH0204', /circle: a$/, [derivation('a', { after: ['a'] })])
  refuses('MESH0204', /circle: a, b, c/, [
    derivation('a', { after: ['b'] }),
    derivation('b', { after: ['c'] }),
    derivation('c', { after: ['a'] }),
    derivation('d'),
  ])
})

test('check-request: fetches and their builder go together', () => {
  refuses('MESH0203', /go together/, [{ ...derivation('a'), builder: 'builtin:fetch' }])
  refuses('MESH0203', /go together/, [
    { ...derivation('a', { urls: ['https://a'] }), builder: '/bin/sh' },
  ])
})

test('check-request: a range of processors upside down', () =>
  refuses('MESH0203', /max 1 below min 4/, [
    { ...derivation('a'), needs: { ...derivation('a').needs, cpus: { min: 4, max: 1 } } },
  ]))

test('check-request: a chain as deep as a graph may be is checked without recursion', () => {
  const chain = Array.from({ length: 20_000 }, (_, at) =>
    derivation(`d${at}`, at === 0 ? {} : { after: [`d${at - 1}`] }),
  )
  checkGraph(graph(chain, ['d19999']))
})
