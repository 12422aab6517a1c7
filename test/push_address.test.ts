/** Nothing but globally routable unicast is dialled, unless the operator says so; and a URL says what it is before it is kept. */
import { describe, expect, test } from 'vitest'
import { hostAddress, urlError } from '../src/model/index.ts'
import { addressPolicy, parseAllowPrivate } from '../src/push/address.ts'

/** First and last of every block that is no public one. */
const notPublic = [
  ['this network', '0.0.0.0', '0.255.255.255'],
  ['private', '10.0.0.0', '10.255.255.255'],
  ['carrier-grade NAT', '100.64.0.0', '100.127.255.255'],
  ['loopback', '127.0.0.1', '127.255.255.255'],
  ['link-local, cloud metadata', '169.254.0.0', '169.254.169.254'],
  ['cloud metadata at a public address', '168.63.129.16', '168.63.129.16'],
  ['private', '172.16.0.0', '172.31.255.255'],
  ['protocol assignments', '192.0.0.0', '192.0.0.255'],
  ['documents', '192.0.2.0', '192.0.2.255'],
  ['6to4 relays', '192.88.99.0', '192.88.99.255'],
  ['private', '192.168.0.0', '192.168.255.255'],
  ['benchmarks', '198.18.0.0', '198.19.255.255'],
  ['documents', '198.51.100.0', '198.51.100.255'],
  ['documents', '203.0.113.0', '203.0.113.255'],
  ['multicast', '224.0.0.0', '239.255.255.255'],
  ['reserved', '240.0.0.0', '255.255.255.254'],
  ['broadcast', '255.255.255.255', '255.255.255.255'],
  ['unspecified and loopback', '::', '::1'],
  ['compatible', '::7f00:1', '::8.8.8.8'],
  ['mapped loopback', '::ffff:127.0.0.1', '::ffff:7f00:1'],
  ['mapped private', '::ffff:10.0.0.1', '::ffff:192.168.1.1'],
  ['translated', '::ffff:0:127.0.0.1', '::ffff:0:8.8.8.8'],
  ['NAT64', '64:ff9b::7f00:1', '64:ff9b::8.8.8.8'],
  ['local NAT64', '64:ff9b:1::', '64:ff9b:1:ffff::1'],
  ['discard', '100::', '100::ffff'],
  ['outside 2000::/3', '1fff:ffff::1', '4000::1'],
  ['Teredo', '2001::', '2001:0:ffff::1'],
  ['benchmarks', '2001:2::', '2001:2:0:ffff::1'],
  ['ORCHID', '2001:10::', '2001:2f:ffff::1'],
  ['documents', '2001:db8::', '2001:db8:ffff::1'],
  ['6to4', '2002::', '2002:7f00:1::'],
  ['documents', '3fff::', '3fff:fff::1'],
  ['segment routing', '5f00::', '5f00:ffff::1'],
  ['unique local', 'fc00::1', 'fdff::1'],
  ['link-local', 'fe80::1', 'febf::1'],
  ['site-local', 'fec0::1', 'feff::1'],
  ['multicast', 'ff00::1', 'ff02::1'],
] as const

const publicOnes = [
  '1.1.1.1',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '126.255.255.255',
  '128.0.0.1',
  '168.63.129.15',
  '168.63.129.17',
  '169.253.255.255',
  '172.15.255.255',
  '172.32.0.0',
  '192.0.1.1',
  '192.167.255.255',
  '192.169.0.0',
  '198.17.255.255',
  '198.20.0.0',
  '223.255.255.255',
  '::ffff:8.8.8.8',
  '2606:4700:4700::1111',
  '2001:4860:4860::8888',
  '2a00:1450::1',
  '3ffe:ffff::1',
]

describe('without an exception', () => {
  const allow = addressPolicy(false)
  test.each(notPublic)('%s is refused (%s to %s)', (_kind, first, last) => {
    expect([allow(first), allow(last)]).toEqual([false, false])
  })
  test.each(publicOnes)('%s is allowed', (address) => expect(allow(address)).toBe(true))
  test.each([
    '',
    'localhost',
    'example.com',
    '127.1',
    '0x7f000001',
    '1.2.3',
    '8.8.8.8/32',
    '[::1]',
    '2606:4700::1%eth0',
  ])('what is no address is refused: %j', (text) => expect(allow(text)).toBe(false))
})

describe('with exceptions', () => {
  test('a list opens its networks and nothing else', () => {
    const allow = addressPolicy(['10.1.0.0/16', '127.0.0.1/32', 'fd00::/8'])
    for (const open of ['10.1.2.3', '127.0.0.1', '::ffff:127.0.0.1', '::ffff:a01:203', 'fd12::1', '8.8.8.8'])
      expect([open, allow(open)]).toEqual([open, true])
    for (const shut of ['10.2.0.1', '127.0.0.2', 'fc00::1', '::1', '169.254.169.254', '::ffff:10.2.0.1'])
      expect([shut, allow(shut)]).toEqual([shut, false])
  })

  test('true opens all', () => {
    const allow = addressPolicy(true)
    for (const address of ['127.0.0.1', '::1', '169.254.169.254', '8.8.8.8']) expect(allow(address)).toBe(true)
  })
})

describe('the setting', () => {
  test.each([
    ['true', true],
    ['false', false],
    ['10.0.0.0/8', ['10.0.0.0/8']],
    ['10.0.0.0/8, fd00::/8', ['10.0.0.0/8', 'fd00::/8']],
    ['192.168.1.7/32', ['192.168.1.7/32']],
  ])('%j', (text, parsed) => expect(parseAllowPrivate(text)).toEqual(parsed))

  test.each([
    '',
    ',',
    'yes',
    '10.0.0.0/8,',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '300.0.0.0/8',
    'fd00::/129',
    'localhost',
    '10.0.0.0/8;',
  ])('%j is refused', (text) => expect(parseAllowPrivate(text)).toBeNull())
})

describe('a URL', () => {
  test.each([
    'http://example.com',
    'https://example.com/hooks?x=1#part',
    'https://example.com:8443/a%20b',
    'HTTPS://EXAMPLE.COM/',
    'https://bücher.example/',
    'http://[2606:4700::1111]/',
    'http://127.0.0.1:8080/',
    'https://example.com/user@host',
  ])('%s is one', (text) => expect(urlError(text)).toBeNull())

  test.each([
    '',
    '/hooks',
    '//example.com/',
    'example.com',
    'http:',
    'http://',
    'http:///',
    'http:example.com',
    'http:\\\\example.com',
    'http://?x',
    'http://#x',
    'ftp://example.com/',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'data:text/plain,x',
    'unix:/var/run/docker.sock',
    'http://user@example.com/',
    'http://user:password@example.com/',
    'http://:password@example.com/',
    ' http://example.com/',
    'http://example.com/\n',
    'http://exam\tple.com/',
    'http://example.com/a b',
    'http://example.com/\u0000',
    'http://example.com:99999/',
    'http://exa mple.com/',
    'http://[::1/',
    'http://1.2.3.400/',
    `http://example.com/${'a'.repeat(2048)}`,
  ])('%j is refused, with a reason', (text) => expect(urlError(text)).toEqual(expect.any(String)))

  test.each([
    ['http://127.0.0.1/', '127.0.0.1'],
    ['http://0x7f000001/', '127.0.0.1'],
    ['http://2130706433/', '127.0.0.1'],
    ['http://017700000001/', '127.0.0.1'],
    ['http://127.1/', '127.0.0.1'],
    ['http://0x7f.1/', '127.0.0.1'],
    ['http://127.0.0.1./', '127.0.0.1'],
    ['http://１２７.0.0.1/', '127.0.0.1'],
    ['http://0/', '0.0.0.0'],
    ['http://[::1]:80/', '::1'],
    ['http://[::ffff:127.0.0.1]/', '::ffff:7f00:1'],
    ['http://example.com/', null],
    ['http://localhost/', null],
  ])('%s has the address %s', (text, address) => expect(hostAddress(new URL(text))).toBe(address))
})
