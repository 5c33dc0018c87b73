// Alipay through its own `alipay-sdk`: `node alipay.mjs COMMAND`, a JSON question on stdin, a JSON answer on stdout.
import { readFileSync } from 'node:fs';
import { AlipaySdk } from 'alipay-sdk';

const commands = {
  // Whether each form carries a good signature of the key: `signed` are objects of fields. The SDK verifies only what
  // Alipay signs, so it is told that the key is Alipay's.
  forms({ publicKey, privateKey, signed }) {
    const alipay = sdk(publicKey, privateKey);
    return signed.map((fields) => alipay.checkNotifySignV2(fields));
  },

  // Whether each answer carries a good signature of Alipay's key over its `…_response` member.
  answers({ publicKey, privateKey, answers }) {
    const alipay = sdk(publicKey, privateKey);
    return answers.map((body) => {
      const key = Object.keys(JSON.parse(body)).find((name) => name.endsWith('_response'));
      try {
        alipay.checkResponseSign(body, key, JSON.parse(body).sign, 'judge');
        return true;
      } catch {
        return false;
      }
    });
  },
};

function sdk(publicKey, privateKey) {
  return new AlipaySdk({ appId: '2021000000000001', privateKey, alipayPublicKey: publicKey, keyType: 'PKCS8' });
}

const question = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await commands[process.argv[2]](question)));
