/** Fingerprints: what of a host's userland a job hangs on. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sha256 } from '../../src/wire/digest.ts'
import { EnvironmentJson, fingerprintOf, toolOf, userlandFor } from '../../src/wire/environment.ts'

const flex = sha256('flex')
const environment = { system: 'x86_64-linux', base: sha256('base'), tools: { flex, m4: null } }

test('environment: the fingerprint hangs on system, base and the tools that are used, present or not', () => {
  const digests = [
    fingerprintOf(environment, []),
    fingerprintOf(environment, ['flex']),
    fingerprintOf(environment, ['m4']),
    fingerprintOf({ ...environment, tools: { ...environment.tools, m4: flex } }, ['m4']),
    fingerprintOf({ ...environment, base: flex }, []),
    fingerprintOf({ ...environment, system: 'any' }, []),
  ]
  assert.equal(new Set(digests).size, digests.length)
  assert.equal(fingerprintOf({ ...environment, tools: {} }, []), fingerprintOf(environment, []))
})

test('environment: a tool that is not probed yet leaves it unknown', () => {
  assert.equal(fingerprintOf(environment, ['bison']), undefined)
  assert.equal(userlandFor(environment, ['flex', 'bison']), undefined)
  assert.deepEqual(userlandFor(environment, ['m4']), {
    base: environment.base,
    tools: { m4: null },
  })
})

test('environment: members of every object are no tools', () => {
  for (const name of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) {
    assert.equal(toolOf(environment, name), undefined)
    assert.equal(fingerprintOf(environment, [name]), undefined)
  }
})

test('environment: it survives JSON', () => {
  const whole = {
    ...environment,
    isolation: 'namespace' as const,
    label: 'debian-12',
    features: ['kvm'],
  }
  assert.deepEqual(EnvironmentJson.parse(JSON.parse(JSON.stringify(whole))), whole)
})
